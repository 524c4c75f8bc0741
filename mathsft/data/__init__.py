"""Problems, pools, tokenised examples and base models; and the embedded quickstart."""
