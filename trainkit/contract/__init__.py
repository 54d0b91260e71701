"""What SageMaker promises a container, and what it expects back.

Standard library only, and no effect outside its arguments.
"""
