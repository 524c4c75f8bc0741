"""The response format that models are trained on, and the grader that decides whether a response is correct."""
