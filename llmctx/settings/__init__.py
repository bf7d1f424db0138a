"""The settings, one frozen value: read once from `LLMCTX_*` or arguments, then passed down.

No other module reads the environment, and there is no second way to set anything. A bad value fails here, at start,
with a `ConfigError` that names its key. The database's password is never shown.
"""

from llmctx.settings.environment import PREFIX, load, settings_of, unknown_variables, url_in_environment
from llmctx.settings.settings import Settings

__all__ = ["PREFIX", "Settings", "load", "settings_of", "unknown_variables", "url_in_environment"]
