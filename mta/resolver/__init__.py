"""DNS look-ups over the network, with a bounded cache: implements ``mta.routing.ports.Resolver`` on dnspython."""
