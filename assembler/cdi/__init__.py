"""Container Device Interface: what a host says that a device needs (rule M12, CDI 1.1.0)."""
