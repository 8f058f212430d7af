"""Logins, of clients with us and ours with servers: `wire`'s dialogues, on connections."""
