"""Routes drafted from an OpenAPI document, and the comparison of a policy with one."""
