"""PEFT and the backbone: loading, adapting, placing, quantizing.

The only room that knows peft and bitsandbytes.
"""
