"""Forward authorization: the decision without proxying, alone and behind real proxies."""
