"""What follows the events of messages: each consumer sees every event once, in order, and so do watchers.

``feed`` keeps the newest events in memory and wakes those who follow; ``runner`` hands batches to consumers, each in
one transaction with the advance of its cursor; the other modules are consumers. A consumer's effects therefore happen
exactly once, whatever crashes, as long as they are all in the database. Consumers are registered in ``control.app``.
"""
