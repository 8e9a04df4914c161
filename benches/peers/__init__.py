"""manyhands beside other engines. The only place of this repository that imports one of them."""
