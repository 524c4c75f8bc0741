"""The study: what to try next, who wins, and the orchestration of both."""
