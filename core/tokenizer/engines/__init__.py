"""The engines that turn text into ids: SentencePiece, tokenizers, tiktoken's rank files."""
