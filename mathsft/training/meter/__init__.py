"""What training costs: operations, memory and speed, counted or measured."""
