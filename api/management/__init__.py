"""Managing who may use the broker: what the routes for keys, users, teams, budgets, customers and models share."""
