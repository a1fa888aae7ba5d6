"""The regions of Atlas: each writes its own texts, questions and skills from the source and a random stream of its own."""
