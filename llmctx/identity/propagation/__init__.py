"""How a scope goes along: threads, executors, queues."""
