"""Scripts that ask an engine whom it counts, each a process of its own: they import what the supervisor does not.

They write a JSON array of hosts' names, one line each time it changes, until they are killed; as soon as the head
answers, an empty one if need be. What else they write (why nothing answers yet) is kept for the error.
"""
