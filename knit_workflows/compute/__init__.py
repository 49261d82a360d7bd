"""Where run pods and volumes live: one contract (`base`) and its adapters."""
