"""The tokens that no text contains: where a document ends, whose turn it is in a chat, and calls of tools.

Every tokenizer that is trained here reserves them all, so that a model that was pretrained on plain text can be taught
to chat and to call functions without new rows in its embedding. Only code writes them: text that spells one of them
is encoded as the letters it is made of.
"""

END_OF_TEXT = "<|endoftext|>"
"""Ends a document, and begins a text that is generated from nothing."""
PAD = "<|pad|>"
"""Fills a row; never predicted, and never the same as end-of-text."""
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
"""Begin a turn."""
END = "<|end|>"
"""Ends a turn."""
FUNCTION_CALL, FUNCTION_CALL_END = "<|function_call|>", "<|/function_call|>"
"""Around the JSON of a call, written by the model."""
FUNCTION_RESULT, FUNCTION_RESULT_END = "<|function_result|>", "<|/function_result|>"
"""Around what the function answered, written for the model."""

SPECIAL_TOKENS = (
    PAD,
    SYSTEM,
    USER,
    ASSISTANT,
    END,
    FUNCTION_CALL,
    FUNCTION_CALL_END,
    FUNCTION_RESULT,
    FUNCTION_RESULT_END,
    END_OF_TEXT,
)
"""In the order of their ids, which follow those of the text; end-of-text has the last one."""
