"""Who calls: principals and their roles, tokens and signatures, addresses safe for secrets."""
