"""The cost of training: operations, memory and speed, predicted or measured."""
