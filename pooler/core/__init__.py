"""What the pooler decides: clients, servers, pools, limits, cancel keys, routes.

Owns no loop, task, timer, clock, socket or file. What it needs comes in (bytes, a clock, a
transport, the `Edge`); what it wants comes out (a return value, a call on what it was handed).
"""
