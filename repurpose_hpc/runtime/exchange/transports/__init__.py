"""How an exchange is carried, one module a transport."""
