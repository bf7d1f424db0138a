"""A message broker between the applications' journals and the database: NATS JetStream, chosen by `LLMCTX_TRANSPORT`.

Applications publish frames of rows (`frame.py`) into streams (`topology.py`) and keep each row in the journal until the
*database* has it: no promise rests on the broker, which may be full, away or emptied. `llmctx ship` stores them.
"""
