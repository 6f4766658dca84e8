"""A process of its own in which the apprise library sends: guarded before the library is loaded.

It imports nothing else of Lighthouse but the address rule: up to four run beside one worker.
"""
