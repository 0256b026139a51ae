"""`barua up`: all programs of one machine as children of one foreground process.

``supervisor.Supervisor`` starts them in order (control, inbox, node, workers, bridge), restarts what crashes, and stops
them in the opposite direction of a message's flow. Everything else here is one piece of that: ``plan`` says what runs,
``backoff`` when again, ``child`` is the first thing in each child, ``notify`` hears that it is ready, ``logs`` keeps
its output, ``lock`` keeps a second run away, ``addresses`` finds ports in use, ``effective`` is the configuration the
children get. Called by ``control.cli`` only.
"""
