"""Coming from LiteLLM: what its database has, read and made ours."""
