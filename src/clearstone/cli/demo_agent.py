"""A support agent with a bug that only some answers of its model trigger. Run it: python agent.py."""

import random

from clearstone import checkpointable, traced

ORDERS = {"A-17": 40.0, "B-02": 12.5, "C-33": 89.0}


@checkpointable
class RefundAgent:
    """Decides how much of each order to refund, within a budget."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.refunds: dict[str, float] = {}
        self.affordable = lambda amount: amount <= self.budget - sum(self.refunds.values())

    @traced(span_type="llm")
    def ask_model(self, prompt: str) -> str:
        """Stand in for a language model: no key, no network, and never twice the same answer."""
        share = random.choice([25, 50, 100])
        return random.choice([f"Refund: {share} %", f"Refund: {share} %", "I would not refund this order."])

    @traced(span_type="tool")
    def look_up(self, order: str) -> float:
        """Return the price of an order."""
        return ORDERS[order]

    @traced
    def share_in(self, answer: str) -> float:
        """Read the share to refund out of the model's answer."""
        return int(answer.split(":")[1].rstrip(" %")) / 100

    def handle(self, *orders: str) -> dict[str, float]:
        """Decide on each order."""
        for order in orders:
            price = self.look_up(order)
            answer = self.ask_model(f"Order {order} of {price} arrived late. How much should we refund?")
            amount = price * self.share_in(answer)
            if self.affordable(amount):
                self.refunds[order] = amount
        return self.refunds


if __name__ == "__main__":
    print(RefundAgent(budget=100).handle("A-17", "B-02", "C-33"))
