"""What sits between the api and the workers: a queue, an event log, a limiter, a store."""
