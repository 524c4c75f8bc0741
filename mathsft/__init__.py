"""mathsft: which learning rate and batch size should I fine-tune this model on math with, and is the answer real?"""
