"""The service: sweeps that are submitted over HTTP and computed on its cluster, whatever happens to it meanwhile.

Its state is in its storage alone, a folder of which each sweep has a part: the record of what was submitted and what is
asked of it now (:mod:`sweeps.service.records`), the run directories, and the progress that its driver writes. A driver
is a job of Ray's (:mod:`sweeps.service.drivers`). So every process of the service may be killed at any moment: whoever
comes after it reads the storage, and starts the drivers of the sweeps that are not done.
"""
