"""Problems, their pools, and their way into tokens; and the embedded quickstart."""
