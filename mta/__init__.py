"""The data plane: accepts messages, keeps them, delivers them. Start with README.md."""
