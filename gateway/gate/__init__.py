"""One request, one decision: credential, roles, rate limits; the decision log, shadow rules, forward auth."""
