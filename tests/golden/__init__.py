"""SMTP dialogues as readable transcripts, and the runner that plays them against anything that speaks SMTP."""
