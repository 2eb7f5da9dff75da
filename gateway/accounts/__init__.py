"""Registration, login and what an account holder may do with the own account."""
