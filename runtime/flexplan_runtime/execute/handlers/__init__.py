"""What a task of each kind does.

attention  Handlers of attention: its first half, its part on the host, and what a layer makes of both.
compute    Handlers that compute: the embedding, a layer or the head of one micro-batch.
door       Newcomers of a rolling schedule: prompts attend to themselves, and go to their seats.
experts    Experts on demand: what the router chose, and of the weights on the host no more.
gather     Rows of the token table, gathered where they live.
hidden     Hidden states from their home to the slot in which layers work, and back.
moving     Guests of a rolling schedule that move to a larger seat.
table      Which of these does the tasks of which kind.
transfers  Handlers that move bytes between the tiers.
"""
