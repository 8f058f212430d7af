"""Operating a running pooler: what people see of it (views), and what they do to it (commands)."""
