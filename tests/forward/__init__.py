"""Forward authorization: the decision without the proxying, alone and behind real proxies."""
