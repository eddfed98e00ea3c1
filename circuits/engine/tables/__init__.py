"""Joint tables of many scopes in one pass."""
