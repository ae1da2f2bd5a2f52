"""The exactness matrix: does a sample's row of logits keep its bits whatever happens around it?"""
