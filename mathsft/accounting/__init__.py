"""What a study costs: how long its parts take, what workers did, what lies on disk; measured, recorded and predicted."""
