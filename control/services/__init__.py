"""The public face: one servicer per proto service, translating protos to values and back.

A servicer checks the fields, then does its work in one transaction of ``store``. Who calls comes from
``control.authentication.caller()``. ``catalogue`` registers them all.
"""
