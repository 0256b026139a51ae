"""What recipients do with messages: links and pictures put into them, and the pages these lead to.

``tracker`` rewrites messages, ``markup`` finds where, ``pages`` answers what recipients' programs ask for,
``recording`` hands what they did to control.
"""
