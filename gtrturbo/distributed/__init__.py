"""The processes of one stage and the devices that they compute on. For a process alone, everything here is a matter of course."""
