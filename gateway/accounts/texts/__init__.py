"""The texts of pages and mails, in every language."""
