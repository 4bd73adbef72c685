"""What an edit did: questions, scores, metrics, generated text. Imports editing."""
