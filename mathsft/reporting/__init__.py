"""The report, model cards, tables and pages that show a study's results, all of them from the study's store."""
