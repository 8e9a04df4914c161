"""manyhands alone: what it reaches of what it promises."""
