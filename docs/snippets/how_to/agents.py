from dataclasses import dataclass

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel

from llmctx.graph.agents import LlmctxMiddleware


@dataclass
class Context:
    user_id: str
    session_id: str


model = GenericFakeChatModel(messages=iter(["It is fine."]))
agent = create_agent(model, tools=[], middleware=[LlmctxMiddleware()], context_schema=Context)
