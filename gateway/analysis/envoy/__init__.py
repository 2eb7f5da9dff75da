"""Export the policy to other proxies. Pure: settings and policy in, a document out."""
