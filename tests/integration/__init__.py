"""The whole proxy between real sockets: clients on one side, a workspace on the other."""
