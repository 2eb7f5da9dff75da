"""Authentication: claims of a verified credential, the user record, and the principal that policy decides on."""
