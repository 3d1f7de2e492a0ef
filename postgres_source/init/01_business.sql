-- The shop's operational tables, as the guide has them, with its five orders.
-- Plain SQL; an empty line ends each statement, so that both psql and the server's single-user mode can run this file.

CREATE SCHEMA business;

CREATE TABLE business.users (
    user_id       bigint PRIMARY KEY,
    username      varchar(50) NOT NULL,
    email         varchar(100),
    phone         varchar(20),
    city          varchar(50),
    register_time timestamp(3) NOT NULL DEFAULT now(),
    updated_at    timestamp(3) NOT NULL DEFAULT now()
);

CREATE TABLE business.orders (
    order_id         bigint PRIMARY KEY,
    user_id          bigint NOT NULL,
    product_name     varchar(200) NOT NULL,
    product_category varchar(50),
    quantity         int NOT NULL,
    unit_price       numeric(10,2) NOT NULL,
    total_amount     numeric(10,2) NOT NULL,
    order_status     varchar(20) NOT NULL,
    order_time       timestamp(3) NOT NULL DEFAULT now(),
    updated_at       timestamp(3) NOT NULL DEFAULT now()
);

CREATE INDEX orders_user_id ON business.orders (user_id);

INSERT INTO business.users (user_id, username, email, phone, city, register_time) VALUES
    (1001, '张三', 'zhangsan@example.com', '13812345678', '北京', '2025-07-11 17:25:55.143'),
    (1002, '李四', 'lisi@example.com', '13912345678', '上海', '2025-07-11 17:25:55.143'),
    (1003, '王五', 'wangwu@example.com', '13712345678', '广州', '2025-07-11 17:25:55.143'),
    (1004, '赵六', 'zhaoliu@example.com', '13612345678', '深圳', '2025-07-11 17:25:55.143'),
    (1005, '钱七', 'qianqi@example.com', '13512345678', '杭州', '2025-07-11 17:25:55.143');

INSERT INTO business.orders (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status, order_time, updated_at) VALUES
    (2001, 1001, 'iPhone 15', '电子产品', 1, 5999.00, 5999.00, 'COMPLETED', '2025-07-11 17:25:55.145', '2025-07-11 17:25:55.145'),
    (2002, 1002, 'MacBook Pro', '电子产品', 1, 12999.00, 12999.00, 'SHIPPED', '2025-07-11 17:25:55.145', '2025-07-11 17:25:55.145'),
    (2003, 1003, '羽绒服', '服装鞋帽', 2, 499.50, 999.00, 'PENDING', '2025-07-11 17:25:55.145', '2025-07-11 17:25:55.145'),
    (2004, 1001, 'AirPods Pro', '电子产品', 1, 1899.00, 1899.00, 'COMPLETED', '2025-07-11 17:25:55.145', '2025-07-11 17:25:55.145'),
    (2005, 1004, '运动鞋', '服装鞋帽', 1, 699.00, 699.00, 'SHIPPED', '2025-07-11 17:25:55.145', '2025-07-11 17:25:55.145');
